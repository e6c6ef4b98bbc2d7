"""Files and folders: written whole, resumed, validated, read back."""

"""What a feature does without its inhibition: taken away, and the rest of the network run on."""

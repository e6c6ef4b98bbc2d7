"""The server that shows a study to participants and stores their answers."""

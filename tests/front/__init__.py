"""What stands in front: the configurations of docs/how-to/in-front.md, run as they stand there."""

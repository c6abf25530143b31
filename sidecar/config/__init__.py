"""The configuration: YAML to checked values, every mistake with its place."""

"""What takes minutes, or a tool that few have; `make longer` runs it."""

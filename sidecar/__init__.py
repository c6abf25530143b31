"""sidecar turns queues into Server-Sent Events, beside the application it serves."""

__version__ = "0.1.0"

"""Tests of `sidecar.config`."""

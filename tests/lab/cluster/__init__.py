"""A real, empty Kubernetes API for tests and for trying the platform, with a registry of charts."""

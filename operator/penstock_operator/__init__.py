"""The Kubernetes operator. Nothing of it exists yet; the package keeps its name and its place."""

"""The resource `LocalModel`: its spec and status as typed values, its names, its CustomResourceDefinition. Pure."""

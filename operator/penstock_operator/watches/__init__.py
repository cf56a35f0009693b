"""The watches: kopf tells what happens in the cluster."""

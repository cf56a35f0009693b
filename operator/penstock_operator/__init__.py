"""
The Kubernetes operator: a LocalModel becomes a tuned model server behind a gateway.

`handlers` hears of changes (kopf) and puts the model's key into `work_queue`; `reconcile` looks at what is there
(`seen`, from `cache`), asks the pure modules what there should be (`desired`, `conditions`, `rollout`) and has
`cluster` make it so. `leader` sees to it that only one replica writes.
"""

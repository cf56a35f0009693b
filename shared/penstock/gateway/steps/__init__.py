"""What the pipeline does with a request, step by step: each file is one of its steps or serves one."""

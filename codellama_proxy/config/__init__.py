"""proxy.yaml and the environment: read, checked, built into a snapshot, and watched."""

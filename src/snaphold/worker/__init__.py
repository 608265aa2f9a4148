"""What the control plane does later: delete, sweep, reap."""

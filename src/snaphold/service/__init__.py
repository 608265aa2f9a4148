"""What can be asked of the service: one function a request, one transaction each."""

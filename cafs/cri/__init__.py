"""Between kubelet and containerd: CRI's image service, so that pull secrets reach the mount server."""

"""What the end-to-end tests stand on: a scripted backend, a raw client, the proxy under test,
databases."""

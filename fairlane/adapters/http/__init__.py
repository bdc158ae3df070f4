"""An HTTP/1.1 client for many short calls at once; see docs/adr/0014."""

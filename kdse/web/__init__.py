"""A static page that runs a streaming student in the browser: see `kdse web`."""

"""What kdse uses of other packages beyond their public API: one module a package, each with a test that it is there."""

"""Corpora: folders of recordings, their manifests and their shards."""

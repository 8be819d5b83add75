"""Audio: files, levels, alignment of two signals, resampling."""

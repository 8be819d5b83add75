"""What a run logs about itself while it trains: scores, audio, cost."""

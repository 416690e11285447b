"""quantum-ess: emergency stop for the trading services of a systemd host."""

__version__ = "0.1.0"

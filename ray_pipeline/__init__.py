"""From raw data to an autoscaled, monitored HTTP endpoint on Ray: one job file, one command."""

__version__ = "0.1.0"

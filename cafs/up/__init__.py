"""All services of one machine, supervised by one process: ``cafs up``.

It starts the ordinary commands with ordinary options, and plays systemd for them (``notices``, ``spawn``).
"""

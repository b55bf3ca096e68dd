"""How long a test waits for a process that it started.

subprocess.run(command, timeout=TIMEOUT_SECS)
"""

# Far above what any process takes: importing TensorFlow alone has taken 20 s on a loaded machine.
# It ends a test that hangs, and is no check of speed.
TIMEOUT_SECS = 600

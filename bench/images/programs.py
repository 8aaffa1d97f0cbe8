"""The small texts in the images: programs and configurations, each with the way it shows that it is ready.

Servers listen on a unix socket in ``RUN``, a directory of the host that is bound into the container: an
answer there needs no network in the container, and asking costs the same for every contender.
"""

from __future__ import annotations

RUN = "/run/probe"
READY = "the program is ready"

SHELL = ("/app/hello.sh", f"#!/bin/bash\nset -e\nname=$(cat /etc/hostname)\necho {READY}\n")

PYTHON = (
    "/app/answer.py",
    f"""\
import numpy
matrix = numpy.array([[6.0, 0.0], [1.0, 7.0]])
assert round(numpy.linalg.det(matrix)) == 42
print("{READY}", flush=True)
""",
)

SCIENCE = (
    "/app/science.py",
    f"""\
import pandas
from scipy import optimize, stats
table = pandas.DataFrame({{"x": range(50), "y": range(0, 100, 2)}})
assert round(stats.linregress(table["x"], table["y"]).slope) == 2
assert round(optimize.brentq(lambda x: x * x - 1764, 0, 100)) == 42
print("{READY}", flush=True)
""",
)

NGINX = (
    (
        "/etc/nginx/nginx.conf",
        f"""\
user www-data;
worker_processes 1;
daemon off;
error_log stderr;
pid /run/nginx.pid;
events {{ worker_connections 256; }}
http {{
    include mime.types;
    access_log off;
    server {{
        listen unix:{RUN}/ready.sock;
        root /var/www/site;
    }}
}}
""",
    ),
    ("/var/www/site/index.html", f"<p>{READY}</p>\n"),
)

REDIS = (
    "/etc/redis/probe.conf",
    f'port 0\nunixsocket {RUN}/ready.sock\nsave ""\nappendonly no\ndir /tmp\nlogfile ""\n',
)

NODE = (
    "/app/server.js",
    f"""\
const http = require('http');
http.createServer((request, response) => response.end('{READY}\\n')).listen('{RUN}/ready.sock');
""",
)

DATABASE = "/var/lib/postgresql/data"
POSTGRES = (
    "/app/serve.sh",
    f"""\
#!/bin/sh
exec setpriv --reuid=postgres --regid=postgres --init-groups \\
    /usr/lib/postgresql/15/bin/postgres -D {DATABASE} -k {RUN} -c listen_addresses=
""",
)
POSTGRES_SOCKET = ".s.PGSQL.5432"

PROJECT = (
    ("/work/Makefile", "check: sources.txt\n\t@sh ./count.sh $<\n"),
    ("/work/count.sh", f"test \"$(sort -u $1 | wc -l)\" = 3\nsed -n 's/^ready: //p' $1\n# {READY}\n"),
    ("/work/sources.txt", f"main.c\nlist.c\nready: {READY}\n"),
)


def service(number: int) -> str:
    """One of several Python programs on one base; it goes on until it is ended."""
    return f"""\
import signal
import numpy
assert numpy.ones(({number}, {number})).sum() == {number * number}
print("{READY}", flush=True)
signal.pause()
"""

#!/usr/bin/env python3
"""Calls a service with the token that podtoken keeps fresh: it reads the file for each request.

Reading costs microseconds: the file is in memory, and complete at any time. Nothing of it is kept but a checksum, to
notice a change.
"""
import hashlib
import os
import sys
import time
import urllib.request

TOKEN_FILE = os.environ["VAULT_TOKEN_FILE"]
SERVICE_URL = os.environ["SERVICE_URL"]
EVERY_SECONDS = float(os.environ["EVERY_SECONDS"])


def log(*words):
    print(*words, file=sys.stderr, flush=True)


def call(checksum):
    """Makes one call and returns the checksum of its token."""
    with open(TOKEN_FILE, encoding="ascii") as file:
        token = file.read()
    now = hashlib.sha256(token.encode()).digest()
    if checksum not in (None, now):
        # Sessions that were opened with the old token would be opened again here.
        log("the token has changed")
    request = urllib.request.Request(SERVICE_URL, headers={"Authorization": "Bearer " + token})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            log("the service answered", answer.status)
    except OSError as error:  # urllib.error.URLError is one; an HTTP status above 399, too
        log("the call failed:", error)
    return now


def main():
    checksum = None
    while True:
        checksum = call(checksum)
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()

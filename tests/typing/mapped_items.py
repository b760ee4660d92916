"""A user's program: fetches many pages, with retries and limits."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.error import URLError
from urllib.parse import urlsplit

import parallel_exec as px


@dataclass(frozen=True)
class Page:
    """What was fetched."""

    url: str
    body: bytes


def fetch(url: str) -> Page:
    """Return a page."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return Page(url, bytes(answer.read()))


def lines() -> Iterator[str]:
    """Yield addresses as they come."""
    for line in sys.stdin:
        yield line.strip()


POLITE = px.AllOf(
    px.ConcurrencyLimiter(20),
    px.RateLimiter(50, per=1),
    px.PerKey(lambda _: px.ConcurrencyLimiter(2)),
)


def size(url: str) -> int:
    """Return how long a page is."""
    return len(fetch(url).body)


def main() -> int:
    """Fetch what stdin names; return how many failed."""
    retry = px.Retry(attempts=4, on=(URLError, TimeoutError), max_time=60)
    outcomes = px.parallel_map_settled(fetch, list(lines()), POLITE, retry=retry, deadline=600)
    total = sum(len(outcome.value.body) for outcome in outcomes.fulfilled)
    sys.stdout.write(f"{total} bytes\n")
    for outcome in outcomes.rejected:
        sys.stdout.write(f"{outcome.label}: {outcome.reason} ({outcome.attempts} tries)\n")
    again = [str(outcome.task) for outcome in outcomes if not outcome.ok]
    sizes = px.parallel_map(size, again, px.AIMDController(2), retry=retry)
    sys.stdout.write(f"{max(sizes, default=0)}\n")
    return len(outcomes.rejected)


def hosts_of(urls: list[str]) -> set[str | None]:
    """Return the hosts that answer."""
    with px.parallel_imap(fetch, urls, ordered=False) as pages:
        return {urlsplit(page.url).hostname for page in pages if page.body}


if __name__ == "__main__":
    sys.exit(main())

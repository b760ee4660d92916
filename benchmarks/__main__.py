"""``python -m benchmarks [name ...]``: run benchmarks, print tables, save JSON."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import traceback
from types import ModuleType

import benchmarks
from benchmarks import harness


def find() -> dict[str, ModuleType]:
    """Return the benchmarks of this package, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(benchmarks.__path__))
    modules = {
        name: importlib.import_module(f"benchmarks.{name}") for name in names if name != "__main__"
    }
    return {name: module for name, module in modules.items() if hasattr(module, "comparisons")}


def main(argv: list[str] | None = None) -> int:
    """Return 0 if no bar was missed, 1 if one was, or a benchmark failed."""
    modules = find()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run benchmarks, ours and theirs interleaved. Results: benchmarks/results/.",
        epilog="\n".join(f"{name}: {_summary(module)}" for name, module in modules.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which ones (default: all)")
    parser.add_argument("--quick", action="store_true", help="less work in fewer rounds")
    parser.add_argument("--rounds", type=int, help="how many rounds")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in modules:
            parser.error(f"no benchmark {name!r}; there are {', '.join(modules)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}")

    about = {**harness.machine(), "load": harness.load()}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    good = True
    for name in options.names or modules:
        reports = []
        try:
            for comparison in modules[name].comparisons(options.quick):
                rounds = options.rounds or (min(comparison.rounds, 2) if options.quick else None)
                report = comparison.run(rounds)
                report.print()
                reports.append(report)
                good = good and report.ok
        except Exception:  # one broken benchmark must not cost the results of the others
            print(f"\n{name}: FAILED", flush=True)
            traceback.print_exc()
            good = False
        if reports:
            harness.save(name, reports, quick=options.quick)
    return 0 if good else 1


def _summary(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())

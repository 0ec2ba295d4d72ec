"""`python -m release`: the same as `moe-release`."""

from release.cli import main

if __name__ == "__main__":
    main()

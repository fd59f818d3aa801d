"""The documentation site: `make docs` builds it from README, docs/ and the code, and checks every link."""

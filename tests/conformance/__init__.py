"""The Gateway API's conformance suite against Culvert in a lab: ``make conformance``. Reports: ``docs/conformance``."""

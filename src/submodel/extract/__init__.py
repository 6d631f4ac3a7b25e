"""The job: steps of an extraction, what they made, and how far they have come."""

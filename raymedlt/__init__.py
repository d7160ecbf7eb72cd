"""raymedlt: better training data and better models from radiology reports and chest X-rays, on Ray.

Importing this package costs milliseconds: rooms with heavy libraries are imported where they are used.
"""

__version__ = "0.1.0"

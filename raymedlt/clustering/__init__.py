"""Density clustering that proves its spanning tree.

neighbours.py      exact neighbour lists, distances, core distances
spanning_tree.py   certified Borůvka
hierarchy.py       hdbscan's compiled tree code behind one door
fit.py             the fit, its certificate, DBSCAN and k-means for comparison
model.py           a fitted model that assigns new sentences
"""

from raymedlt.clustering.fit import Certificate, Clustering, hdbscan_fit
from raymedlt.clustering.model import ClusterModel

__all__ = ["Certificate", "ClusterModel", "Clustering", "hdbscan_fit"]

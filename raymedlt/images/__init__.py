"""Chest X-rays: image files, label tables, splits by patient, the procedural phantom, augmentation."""

"""Stacked networks that classify images, and the model that trains one."""

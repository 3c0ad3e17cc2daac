"""Recipes: one file per trained part."""

"""From a folder of videos to a pair store: find videos, choose pairs, estimate flow, judge it, write it."""

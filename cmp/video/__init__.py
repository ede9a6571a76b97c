"""Video in and out: readers (PyAV, decord, folders of frames) behind one protocol, and small writers."""

from cmp.video.reader import Frame, VideoReader
from cmp.video.readers import open_video
from cmp.video.writers import check_video_path, write_video

__all__ = ["Frame", "VideoReader", "check_video_path", "open_video", "write_video"]

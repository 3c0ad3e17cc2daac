"""Frames of HDR clips (HLG of phones, PQ) in the colours of a screen without HDR."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.filter import Graph
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

TRANSFERS = (16, 18)  # PQ and HLG, in the numbers of ITU-T H.273
TO_BT709 = "out_primaries=bt709:out_transfer=bt709:out_color_matrix=bt709:intent=perceptual"


class ToneMapping:
    """Frames of one clip, tone-mapped by FFmpeg where the clip is HDR; other frames stay as they are.

    The first frame of an HDR clip takes some seconds, in which FFmpeg makes its table of colours.
    """

    def __init__(self, stream: VideoStream) -> None:
        self.needed = stream.codec_context.color_trc in TRANSFERS
        self.graph: Graph | None = None
        self.size = (0, 0)

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        if not self.needed:
            return frame
        if self.graph is None or self.size != (frame.width, frame.height):
            self.graph, self.size = _graph(frame), (frame.width, frame.height)
        self.graph.vpush(frame)
        return self.graph.vpull()


def _graph(frame: VideoFrame) -> Graph:
    from av.filter import Graph

    graph = Graph()
    unit = frame.time_base or Fraction(1, 1000)  # some files have none; the times of frames are not used here
    nodes = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=unit),
        graph.add("scale", TO_BT709),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph

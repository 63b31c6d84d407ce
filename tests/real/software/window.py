"""A GTK program that draws all the time:  window.py DIRECTORY

Frames, clicks and what was typed are in files of DIRECTORY. Left of the picture is a green that
becomes blue by a click at the button; right of it each frame has another grey; a red bar goes round.
"""
import sys

import gi
gi.require_version("Gtk", "3.0")
from gi.repository import GLib, Gtk  # noqa: E402

place = sys.argv[1]
frames = clicks = 0


def tell(name, words):
    with open(f"{place}/{name}", "w") as file:
        file.write(f"{words}\n")


def draw(area, c):
    c.set_source_rgb(*((0, 1, 0) if clicks % 2 == 0 else (0, 0, 1)))
    c.rectangle(0, 0, 150, 200)
    c.fill()
    grey = frames % 100 / 100
    c.set_source_rgb(grey, grey, grey)
    c.rectangle(150, 0, 150, 200)
    c.fill()
    c.set_source_rgb(1, 0, 0)
    c.rectangle(0, frames % 100, 300, 5)
    c.fill()


def tick():
    global frames
    frames += 1
    label.set_text(f"frame {frames}")
    area.queue_draw()
    tell("frames", frames)
    return True


def clicked(button):
    global clicks
    clicks += 1
    tell("clicks", clicks)


window = Gtk.Window(title="picture", decorated=False)
box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
area = Gtk.DrawingArea(width_request=300, height_request=200)
button = Gtk.Button(label="the other colour")
entry = Gtk.Entry()
label = Gtk.Label()
for widget in area, button, entry, label:
    box.pack_start(widget, False, False, 0)
area.connect("draw", draw)
button.connect("clicked", clicked)
entry.connect("changed", lambda e: tell("entry", e.get_text()))
window.add(box)
window.move(500, 20)
window.show_all()
entry.grab_focus()
GLib.timeout_add(20, tick)
Gtk.main()

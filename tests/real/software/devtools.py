"""Asks the page of the chromium that listens at port 9222:  devtools.py EXPRESSION | --shot FILE | --click X Y"""
import base64
import json
import sys
import urllib.request

import websocket


def call(socket, method, **params):
    socket.send(json.dumps({"id": 1, "method": method, "params": params}))
    while True:
        answer = json.loads(socket.recv())
        if answer.get("id") == 1:
            return answer["result"]


pages = json.load(urllib.request.urlopen("http://127.0.0.1:9222/json", timeout=60))
page = next(p for p in pages if p["type"] == "page")
socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60, suppress_origin=True)
if sys.argv[1] == "--shot":
    with open(sys.argv[2], "wb") as file:
        file.write(base64.b64decode(call(socket, "Page.captureScreenshot", format="png")["data"]))
elif sys.argv[1] == "--click":
    for kind in "mousePressed", "mouseReleased":
        call(socket, "Input.dispatchMouseEvent", type=kind, x=int(sys.argv[2]), y=int(sys.argv[3]),
             button="left", clickCount=1)
else:
    print(call(socket, "Runtime.evaluate", expression=sys.argv[1])["result"]["value"])

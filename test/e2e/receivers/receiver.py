"""The receiver of receiver.ts, with the official library for Python."""
import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["WEBHOOK_SECRET"])  # whsec_…


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        event = None
        try:
            body = self.rfile.read(int(self.headers["content-length"]))
            event = webhook.verify(body, dict(self.headers))
            self.send_response(204)
        except (WebhookVerificationError, ValueError):  # ValueError: not even text
            self.send_response(400)
        self.end_headers()
        line = {"verified": event is not None, "id": self.headers["webhook-id"], "type": event and event["type"]}
        print(json.dumps(line), flush=True)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()

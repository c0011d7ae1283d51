// The shop's cart: a plain HTTP server on loopback that knows nothing of Ashlar.
// It signs each cart with a key that it finds in a file.
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const catalog = process.env.CATALOG_URL;
const key = readFileSync(process.env.KEY_FILE);

const server = createServer(async (request, response) => {
  try {
    if (request.method !== "GET" || request.url !== "/items") {
      response.writeHead(404).end();
      return;
    }
    const answer = await fetch(catalog + "/catalog.json", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`catalog answered ${answer.status}`);
    const items = await answer.json();
    const signature = createHmac("sha256", key).update(JSON.stringify(items)).digest("hex");
    response.writeHead(200, { "Content-Type": "application/json" });
    response.end(JSON.stringify({ service: "cart", language: "JavaScript", items, signature }));
  } catch (error) {
    response.writeHead(502).end(String(error));
  }
});
server.listen(8082, "127.0.0.1");

// Two type errors; the test checks that the compiler reports their lines.
import { WSClient } from "../../../src/web/client.js";

const client = new WSClient({ url: "ws://localhost:3001" });
client.sendMessage("chat:list", { limit: "5" });
client.onMessage("chat:created", (chat) => chat.name);

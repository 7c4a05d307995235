// grammY's session middleware on its own storage adapter: `node grammy.mjs STORAGE PLACE`, run by grammy.py.
//
// PLACE is a URL, a folder or nothing. A line of standard input, {work, keys, inFlight}, is handled like updates of
// these chats, and answered by a line with the seconds that it took and the seconds of CPU.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// The packages are in the working directory, for they are installed outside this tree.
const require = createRequire(`${process.cwd()}/`);
const { MemorySessionStorage, session } = require("grammy");
const [kind, place] = process.argv.slice(2);

const open = {
  memory: async () => new MemorySessionStorage(),
  file: async () => new (require("@grammyjs/storage-file").FileAdapter)({ dirName: place }),
  redis: async () => {
    const { Redis } = require("ioredis");
    const instance = new Redis(place, { keyPrefix: "grammy:" });
    return new (require("@grammyjs/storage-redis").RedisAdapter)({ instance });
  },
  mongo: async () => {
    const client = await new (require("mongodb").MongoClient)(place).connect();
    const collection = client.db("bench").collection("grammy");
    await collection.createIndex("key");
    return new (require("@grammyjs/storage-mongodb").MongoDBAdapter)({ collection });
  },
  postgres: async () => {
    const { Pool } = require("pg");
    const client = new Pool({ connectionString: place, max: 10 });
    return require("@grammyjs/storage-psql").PsqlAdapter.create({ tableName: "grammy", client });
  },
};

let homes = 0;
const initial = () => ({
  count: 0,
  name: "Margherita Quattro Stagioni",
  language: "en",
  state: "order:address:confirm",
  address: { street: "Via dei Tribunali 32", city: "Napoli", zip: String(homes++ % 1e5).padStart(5, "0") },
  basket: ["margherita", "marinara", "diavola", "acqua frizzante"],
  history: Array.from({ length: 12 }, (_, i) => 1000 + i),
});

const middleware = session({ storage: await open[kind](), initial, getSessionKey: (context) => context.key });

async function handle(keys) {
  for (const key of keys) {
    const context = { key };
    await middleware(context, async () => void (context.session.count += 1));
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { keys, inFlight } = JSON.parse(line);
  const rest = keys.values();
  const [began, beganCpu] = [performance.now(), process.cpuUsage()];
  await Promise.all(Array.from({ length: inFlight }, () => handle(rest)));
  const cpu = process.cpuUsage(beganCpu);
  console.log(JSON.stringify({ seconds: (performance.now() - began) / 1e3, cpu: (cpu.user + cpu.system) / 1e6 }));
}
process.exit();

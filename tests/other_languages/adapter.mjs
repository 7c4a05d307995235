// grammY's own storage adapters at work: `node adapter.mjs URL OPTIONS`, run by ../test_other_languages.py.
//
// URL is the one that bot_session.open_storage takes; a line of standard input is a command, ["write", "42", {…}], and
// is answered by a line with what it returned. What fails ends the program.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// The packages are in the working directory, for they are installed outside this tree.
const require = createRequire(`${process.cwd()}/`);
const { enhanceStorage, session } = require("grammy");

const [address, options] = [new URL(process.argv[2]), JSON.parse(process.argv[3])];

// Take one of our options out of the URL: the rest is for the driver.
function take(name) {
  const value = address.searchParams.get(name);
  address.searchParams.delete(name);
  return value;
}

// For every scheme: the adapter, and what closes its driver.
const open = {
  "file:": async () => {
    const { FileAdapter } = require("@grammyjs/storage-file");
    return [new FileAdapter({ dirName: decodeURIComponent(address.pathname) }), () => {}];
  },

  "redis:": async () => {
    const { Redis } = require("ioredis");
    const keyPrefix = take("prefix");
    const instance = new Redis(address.href, { keyPrefix });
    const { RedisAdapter } = require("@grammyjs/storage-redis");
    const storage = options.gramio ? gramioRedis(instance) : new RedisAdapter({ instance, ttl: options.ttl });
    return [storage, () => instance.quit()];
  },

  "mongodb:": async () => {
    const { MongoClient } = require("mongodb");
    const name = take("collection");
    const client = await new MongoClient(address.href).connect();
    const { MongoDBAdapter } = require("@grammyjs/storage-mongodb");
    return [new MongoDBAdapter({ collection: client.db("bot_session").collection(name) }), () => client.close()];
  },

  "postgresql:": async () => {
    const { Client } = require("pg");
    const tableName = take("table");
    const client = new Client(address.href);
    await client.connect();
    const { PsqlAdapter } = require("@grammyjs/storage-psql");
    return [await PsqlAdapter.create({ tableName, client }), () => client.end()];
  },

  "supabase:": async () => {
    const { createClient } = require("@supabase/supabase-js");
    // Its other clients are not used; they want a WebSocket, which Node has from 22 on, and a timer.
    const unused = { auth: { autoRefreshToken: false }, realtime: { transport: class {} } };
    const supabase = createClient(`http://${address.host}`, take("key"), unused);
    const { supabaseAdapter } = require("@grammyjs/storage-supabase");
    return [supabaseAdapter({ supabase, table: take("table") }), () => {}];
  },
};

// What GramIO's Redis storage sends, written out by hand after its source: its own package is not installed.
function gramioRedis(redis) {
  const { $ttl } = options.gramio;
  return {
    read: async (key) => JSON.parse((await redis.get(key)) ?? "null") ?? undefined,
    write: (key, value) =>
      $ttl ? redis.setex(key, $ttl, JSON.stringify(value)) : redis.set(key, JSON.stringify(value)),
    delete: (key) => redis.del(key),
  };
}

// grammY's enhanceStorage; each migration notes that it ran.
function enhanced(storage) {
  const { millisecondsToLive, versions } = options.enhance;
  const note = (version) => (old) => ({ ...old, ran: [...(old.ran ?? []), version] });
  const migrations = versions && Object.fromEntries(versions.map((version) => [version, note(version)]));
  return enhanceStorage({ storage, millisecondsToLive, migrations });
}

const [adapter, close] = await open[address.protocol]();
const storage = options.enhance ? enhanced(adapter) : adapter;

const commands = {
  read: (key) => storage.read(key),
  write: async (key, value) => void (await storage.write(key, value)),
  delete: async (key) => void (await storage.delete(key)),
  // What a bot does with an update of a chat: grammY's own middleware, around a handler that changes some fields.
  handle: async (chatId, changes) => {
    const context = { chatId };
    await session({ storage, initial: () => ({}) })(context, async () => void Object.assign(context.session, changes));
  },
};

// JSON has no dates; JavaScript's objects have.
const revive = (_, value) => (value?.date === undefined ? value : new Date(value.date));

for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...parameters] = JSON.parse(line, revive);
  console.log(JSON.stringify({ value: await commands[command](...parameters) }));
}
await close();

// Drives the OpenAI Node SDK; prints one JSON object of what it saw. Arguments: NODE_FOLDER BASE_URL API_KEY.
import { createRequire } from "node:module";

const [folder, baseURL, apiKey] = process.argv.slice(2);
const { OpenAI, APIError } = createRequire(folder + "/")("openai");
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const seen = {};

async function failure(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return { type: error.constructor.name, status: error.status ?? null, message: error.message, code: error.code ?? null };
  }
}

async function collect(stream) {
  let text = "";
  let usage = null;
  let empty = 0;
  for await (const chunk of stream) {
    if (chunk.choices.length === 0) empty += 1;
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, usage, empty };
}

const { data: plain, response } = await client.chat.completions.create({ model: "m", messages }).withResponse();
seen.plain = { text: plain.choices[0].message.content, usage: plain.usage };
seen.id = response.headers.get("x-request-id");
seen.stream = await collect(await client.chat.completions.create({ model: "m", messages, stream: true }));
seen.asked = await collect(
  await client.chat.completions.create({ model: "m", messages, stream: true, stream_options: { include_usage: true } }),
);
seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);
seen.unknown = await failure(() => client.chat.completions.create({ model: "nobody", messages }));
seen.refused = await failure(() =>
  new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).chat.completions.create({ model: "m", messages }),
);
seen.cut = await failure(async () => {
  await collect(await client.chat.completions.create({ model: "cut", messages, stream: true }));
});
const left = await client.chat.completions.create({ model: "m", messages, stream: true });
for await (const chunk of left) break;
console.log(JSON.stringify(seen));

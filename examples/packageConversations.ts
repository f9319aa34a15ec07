// Writes real conversations found on this machine as OpenAI messages: what installed npm packages and Debian's packages say they are.
// Then, for example:
//   node dist/cli/main.js sft --model anneal-quickstart/pretrained --files conversations.jsonl --assistant-only-loss --eval-split 200 \
//     --eval-strategy epoch --num-train-epochs 1 --learning-rate 1e-3 --output-dir packages
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import glob from 'fast-glob'

const target = process.argv[2] ?? 'conversations.jsonl'
const most = Number(process.argv[3] ?? 5000)
const described = new Map<string, string>()

for (const file of glob.sync('**/node_modules/**/package.json', { absolute: true, suppressErrors: true, cwd: process.argv[4] ?? '.' })) {
  try {
    const { name, description } = JSON.parse(readFileSync(file, 'utf8')) as { name?: unknown; description?: unknown }
    if (typeof name === 'string' && typeof description === 'string' && description.length > 10) described.set(`the npm package ${name}`, description)
  } catch {
    // Fixtures of broken JSON are no packages.
  }
}

/** What a command prints; nothing where it fails or does not exist. */
function outputOf(command: string, ...args: string[]): string {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 2 ** 30 })
  return status === 0 ? stdout : ''
}

// The package index where there is one, else what is installed.
const index = outputOf('apt-cache', 'dumpavail')
for (const [, name, summary] of index.matchAll(/^Package: (\S+)\n(?:[^\n]+\n)*?Description(?:-en)?: ([^\n]+)/gm)) described.set(`the Debian package ${name!}`, summary!)
if (index.length === 0) {
  const installed = outputOf('dpkg-query', '-W', '-f', '${Package}\\t${binary:Summary}\\n')
  for (const line of installed.split('\n')) {
    const [name, summary] = line.split('\t')
    if (name && summary) described.set(`the Debian package ${name}`, summary)
  }
}

const rows = [...described].filter((_, i) => i % Math.max(1, Math.floor(described.size / most)) === 0).slice(0, most)
writeFileSync(target, rows.map(([what, description]) => JSON.stringify({
  messages: [{ role: 'user', content: `What is ${what}?` }, { role: 'assistant', content: description }],
})).join('\n') + '\n')
console.log(`${rows.length} conversations: ${target}`)

import { createReadStream } from 'node:fs'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { TokenizerError } from '../errors.ts'
import { makeFolder, replaceFile } from '../files/index.ts'
import { readTokenizerConfig, specialTokenKeys, type TokenizerConfig } from './tokenizerConfig.ts'

/** Reads the tokenizer files of a model folder. */
export async function readTokenizerFolder(dir: string): Promise<{ source: string, config: TokenizerConfig, where: string }> {
  const where = join(dir, 'tokenizer.json')
  const source = await readText(where)
  if (source === undefined) {
    throw new TokenizerError(`${where}: no such file; a tokenizer is read from tokenizer.json, which transformers' save_pretrained writes`)
  }
  const configPath = join(dir, 'tokenizer_config.json')
  const config = readTokenizerConfig(await readObject(configPath), configPath, await readObject(join(dir, 'special_tokens_map.json')))
  const template = await readText(join(dir, 'chat_template.jinja'))
  if (template !== undefined) config.chatTemplates['default'] = template
  const others = join(dir, 'additional_chat_templates')
  for (const name of await listFolder(others)) {
    if (!name.endsWith('.jinja')) continue
    const text = await readText(join(others, name))
    if (text !== undefined) config.chatTemplates[name.slice(0, -'.jinja'.length)] = text
  }
  return { source, config, where }
}

/** Writes the tokenizer files as transformers lays them out: the chat template in a file of its own. */
export async function writeTokenizerFolder(dir: string, source: string, config: TokenizerConfig): Promise<void> {
  await makeFolder(dir)
  await replaceFile(join(dir, 'tokenizer.json'), source)
  await replaceFile(join(dir, 'tokenizer_config.json'), formatConfig(config))
  for (const [name, template] of Object.entries(config.chatTemplates)) {
    if (name === 'default') {
      await replaceFile(join(dir, 'chat_template.jinja'), template)
      continue
    }
    if (!/^[\w.-]+$/.test(name)) throw new TokenizerError(`the chat template name ${JSON.stringify(name)} cannot be a file name; use letters, digits, - and _`)
    await makeFolder(join(dir, 'additional_chat_templates'))
    await replaceFile(join(dir, 'additional_chat_templates', `${name}.jinja`), template)
  }
  if (config.chatTemplates['default'] === undefined) await rm(join(dir, 'chat_template.jinja'), { force: true })
}

function formatConfig(config: TokenizerConfig): string {
  const fields: Record<string, unknown> = { tokenizer_class: 'PreTrainedTokenizerFast', ...config.rest }
  fields['clean_up_tokenization_spaces'] = config.cleanUpTokenizationSpaces
  if (config.modelMaxLength !== undefined) fields['model_max_length'] = config.modelMaxLength
  for (const [name, key] of specialTokenKeys) if (config.tokens[name] !== undefined) fields[key] = config.tokens[name]
  if (config.addedTokens.length > 0) {
    fields['added_tokens_decoder'] = Object.fromEntries(config.addedTokens.map((token) => [token.id, {
      content: token.content,
      lstrip: token.lstrip,
      normalized: token.normalized,
      rstrip: token.rstrip,
      single_word: token.singleWord,
      special: token.special,
    }]))
  }
  const sorted = Object.fromEntries(Object.entries(fields).sort(([a], [b]) => (a < b ? -1 : 1)))
  return `${JSON.stringify(sorted, undefined, 2)}\n`
}

async function readText(path: string): Promise<string | undefined> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let text = ''
  try {
    // In pieces, as decoding several megabytes takes long.
    for await (const piece of createReadStream(path, { highWaterMark: 1 << 19 })) text += decoder.decode(piece as Buffer, { stream: true })
    return text + decoder.decode()
  } catch (error) {
    if (isErrno(error) && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return undefined
    if (error instanceof TypeError) throw new TokenizerError(`${path}: not valid UTF-8; the file is damaged`, { cause: error })
    throw new TokenizerError(`${path}: cannot be read (${error instanceof Error ? error.message : String(error)})`, { cause: error })
  }
}

async function readObject(path: string): Promise<object> {
  const text = await readText(path)
  if (text === undefined) return {}
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value
  } catch (error) {
    throw new TokenizerError(`${path}: not valid JSON (${error instanceof Error ? error.message : String(error)}); the file is damaged`, { cause: error })
  }
  throw new TokenizerError(`${path}: expected a JSON object`)
}

async function listFolder(path: string): Promise<string[]> {
  try {
    return (await readdir(path)).sort()
  } catch {
    return []
  }
}

function isErrno(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'code' in error
}

import js from '@eslint/js'
import tseslint from 'typescript-eslint'

/** The order in which folders may import: a folder sees only itself and those before it. */
const layers = ['tensor', 'ops', 'nn', 'files', 'models', 'adapters', 'tokenizers', 'data', 'optim', 'train', 'generate', 'eval', 'quantization', 'export', 'rewards', 'methods', 'cli']

/** Forbids `folder` to import from any later layer. */
const oneWay = (folder, index) => ({
  files: [`src/${folder}/**/*.ts`],
  rules: {
    'no-restricted-imports': ['error', {
      patterns: [{
        group: layers.slice(index + 1).map((later) => `../${later}/*`),
        message: 'Imports run one way: ' + layers.join(' → '),
      }],
    }],
  },
})

export default tseslint.config(
  { ignores: ['.*/**', 'dist', 'build', 'build-*', 'coverage', 'lib/kernels.d.ts', 'node_modules'] },
  js.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: { allowDefaultProject: ['*.js', 'scripts/*.js', 'scripts/*.cjs', 'lib/*.js', 'tests/*.mjs'] }, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
    },
  },
  { files: ['**/*.js', '**/*.mjs', '**/*.cjs'], extends: [tseslint.configs.disableTypeChecked], languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly' } } },
  { files: ['**/*.cjs'], languageOptions: { globals: { require: 'readonly', module: 'writable', __dirname: 'readonly' } }, rules: { '@typescript-eslint/no-require-imports': 'off' } },
  ...layers.slice(0, -1).map(oneWay),
)
